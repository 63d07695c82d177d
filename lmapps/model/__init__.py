"""Token ids and state in, logits and state out. Importing it registers with transformers."""

import lmapps.model.hub_config  # noqa: F401
