"""Colours, type and spacing of the page -> a Gradio theme, calm in light and in dark."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.themes.utils import colors, sizes

FONTS = [
    "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif",
]  # fmt: skip
"""The system's own, Chinese ones included: nothing is fetched."""
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
ACCENT = colors.Color(
    "#edf6f4", "#d4eae5", "#aad5cc", "#78bab0", "#4b9c92", "#2c7f76", "#226860", "#1d544e",
    "#19433f", "#143532", "#0b1f1d", name="accent",
)  # fmt: skip
"""From light to dark, 50 to 950. White text is legible on 500 and darker."""
PAPER = colors.Color(
    "#f8f8f6", "#f0f0ed", "#e3e3de", "#cfcfc8", "#a3a39b", "#6b6b64", "#55554f", "#3d3d39",
    "#2a2a28", "#1d1d1c", "#141413", name="paper",
)  # fmt: skip
"""Warm greys. 500 is legible on 50, and 400 on 950."""
TEXT = sizes.Size("11px", "12px", "13px", "15px", "16px", "20px", "26px", name="text")
BOTH = {
    # Components stand on the page by themselves: one border, around what can be filled in.
    "block_border_width": "0px",
    "block_padding": "0px",
    "block_radius": "*radius_lg",
    "block_shadow": "none",
    "block_label_border_width": "0px",
    "block_label_padding": "0 0 4px 0",
    "block_label_text_size": "*text_sm",
    "block_label_text_weight": "500",
    "block_title_text_size": "*text_sm",
    "block_title_text_weight": "500",
    "block_info_text_size": "*text_sm",
    "input_border_width": "1px",
    "input_padding": "8px 12px",
    "input_radius": "*radius_lg",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_text_size": "*text_md",
    "checkbox_label_shadow": "none",
    "checkbox_label_padding": "6px 12px",
    "checkbox_label_text_size": "*text_md",
    "checkbox_shadow": "none",
    "layout_gap": "16px",
    "prose_text_size": "*text_md",
    "prose_header_text_weight": "600",
    "chatbot_text_size": "*text_lg",
    "button_transition": "background-color 0.12s, border-color 0.12s",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "button_cancel_shadow": "none",
    "button_large_padding": "8px 16px",
    "button_medium_padding": "6px 14px",
    "button_small_padding": "5px 12px",
    "button_large_radius": "*radius_lg",
    "button_medium_radius": "*radius_lg",
    "button_small_radius": "*radius_lg",
    "button_large_text_size": "*text_md",
    "button_medium_text_size": "*text_md",
    "button_small_text_size": "*text_sm",
    "button_large_text_weight": "500",
    "button_medium_text_weight": "500",
    "button_small_text_weight": "500",
}
LIGHT_AND_DARK = {
    "body_background_fill": ("*neutral_50", "*neutral_950"),
    "body_text_color": ("*neutral_900", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_500", "*neutral_400"),
    "background_fill_primary": ("white", "*neutral_900"),
    "background_fill_secondary": ("*neutral_50", "*neutral_950"),
    "border_color_primary": ("*neutral_200", "*neutral_800"),
    "border_color_accent": ("*primary_500", "*primary_400"),
    "color_accent_soft": ("*primary_50", "*primary_950"),
    "block_background_fill": ("transparent", "transparent"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("*neutral_600", "*neutral_300"),
    "block_title_text_color": ("*neutral_700", "*neutral_300"),
    "panel_background_fill": ("transparent", "transparent"),
    "code_background_fill": ("*neutral_100", "*neutral_900"),
    "link_text_color": ("*primary_600", "*primary_300"),
    "link_text_color_hover": ("*primary_700", "*primary_200"),
    "link_text_color_visited": ("*primary_600", "*primary_300"),
    "link_text_color_active": ("*primary_600", "*primary_300"),
    "input_background_fill": ("white", "*neutral_900"),
    "input_background_fill_focus": ("white", "*neutral_900"),
    "input_border_color": ("*neutral_300", "*neutral_700"),
    "input_border_color_focus": ("*primary_500", "*primary_400"),
    "input_placeholder_color": ("*neutral_500", "*neutral_400"),
    "slider_color": ("*primary_500", "*primary_400"),
    "checkbox_background_color_selected": ("*primary_500", "*primary_500"),
    "checkbox_border_color": ("*neutral_400", "*neutral_600"),
    "checkbox_border_color_selected": ("*primary_500", "*primary_500"),
    "checkbox_label_background_fill": ("white", "*neutral_900"),
    "checkbox_label_background_fill_hover": ("*neutral_100", "*neutral_800"),
    "checkbox_label_background_fill_selected": ("*primary_50", "*primary_950"),
    "checkbox_label_text_color_selected": ("*primary_700", "*primary_100"),
    "checkbox_label_border_color": ("*neutral_300", "*neutral_700"),
    "checkbox_label_border_color_selected": ("*primary_500", "*primary_400"),
    "table_even_background_fill": ("white", "*neutral_900"),
    "table_odd_background_fill": ("*neutral_50", "*neutral_950"),
    "button_primary_background_fill": ("*primary_600", "*primary_500"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_600"),
    "button_primary_border_color": ("*primary_600", "*primary_500"),
    "button_primary_text_color": ("white", "white"),
    "button_secondary_background_fill": ("white", "*neutral_900"),
    "button_secondary_background_fill_hover": ("*neutral_100", "*neutral_800"),
    "button_secondary_border_color": ("*neutral_300", "*neutral_700"),
    "button_secondary_text_color": ("*neutral_800", "*neutral_100"),
    "button_cancel_background_fill": ("white", "*neutral_900"),
    "button_cancel_background_fill_hover": ("#fdf0ee", "#33201e"),
    "button_cancel_border_color": ("#d9a29b", "#7d4740"),
    "button_cancel_text_color": ("#a3342a", "#f0a59c"),
    "error_background_fill": ("#fdf0ee", "#33201e"),
    "error_border_color": ("#d9a29b", "#7d4740"),
    "error_text_color": ("#a3342a", "#f0a59c"),
}


def theme() -> Any:
    """The page's own theme; every colour has its counterpart in the dark."""
    made = gr.themes.Base(
        primary_hue=ACCENT, secondary_hue=ACCENT, neutral_hue=PAPER, text_size=TEXT,
        spacing_size=sizes.spacing_md, radius_size=sizes.radius_md, font=FONTS, font_mono=MONO,
    )  # fmt: skip
    light = {name: light for name, (light, _) in LIGHT_AND_DARK.items()}
    dark = {f"{name}_dark": dark for name, (_, dark) in LIGHT_AND_DARK.items()}
    return made.set(**BOTH, **light, **dark)
