"""Small functions from which a model learns how Python is written: all written for lmapps.

Each docstring says what the function does, in the words that follow "a function that".
records.py makes instructions of them. None of the tasks is one of `problems.jsonl`.
"""

# ruff: noqa: B905 -- in the first words of a language, zip has no strictness


def subtract(a, b):
    """Returns the difference of two numbers."""
    return a - b


def multiply(a, b):
    """Returns the product of two numbers."""
    return a * b


def divide(a, b):
    """Returns the quotient of two numbers, or None where the second is zero."""
    if b == 0:
        return None
    return a / b


def remainder(a, b):
    """Returns the remainder of a divided by b."""
    return a % b


def add_three(a, b, c):
    """Returns the sum of three numbers."""
    return a + b + c


def increment(n):
    """Returns a number plus one."""
    return n + 1


def double(x):
    """Returns a number times two."""
    return 2 * x


def half(x):
    """Returns a number divided by two."""
    return x / 2


def cube(x):
    """Returns a number to the power of three."""
    return x**3


def negate(x):
    """Returns a number with the opposite sign."""
    return -x


def absolute(x):
    """Returns the absolute value of a number."""
    return abs(x)


def is_odd(n):
    """Tells whether a number is odd."""
    return n % 2 == 1


def is_positive(x):
    """Tells whether a number is greater than zero."""
    return x > 0


def is_negative(x):
    """Tells whether a number is less than zero."""
    return x < 0


def is_zero(x):
    """Tells whether a number is zero."""
    return x == 0


def is_multiple(a, b):
    """Tells whether a is a multiple of b."""
    return a % b == 0


def sign(x):
    """Returns 1 for a positive number, -1 for a negative one and 0 for zero."""
    if x > 0:
        return 1
    if x < 0:
        return -1
    return 0


def larger(a, b):
    """Returns the larger of two numbers."""
    return max(a, b)


def smaller(a, b):
    """Returns the smaller of two numbers."""
    return min(a, b)


def largest_of_three(a, b, c):
    """Returns the largest of three numbers."""
    return max(a, b, c)


def clamp(x, low, high):
    """Returns a number that is kept between a lowest and a highest value."""
    return max(low, min(x, high))


def is_between(x, low, high):
    """Tells whether a number is between two others."""
    return low <= x <= high


def distance(a, b):
    """Returns how far two numbers are apart."""
    return abs(a - b)


def round_down(x):
    """Returns the whole part of a number."""
    return int(x)


def percent(part, whole):
    """Returns what percentage a part is of the whole."""
    return 100 * part / whole


def square_root(x):
    """Returns the square root of a number."""
    return x**0.5


def triangle_number(n):
    """Returns the sum of the numbers from 1 to n."""
    total = 0
    for number in range(1, n + 1):
        total += number
    return total


def sum_of_squares(n):
    """Returns the sum of the squares of the numbers from 1 to n."""
    return sum(number**2 for number in range(1, n + 1))


def count_digits(n):
    """Returns how many digits a whole number has."""
    return len(str(abs(n)))


def reverse_number(n):
    """Returns a whole number with its digits in reverse order."""
    return int(str(n)[::-1])


def last_digit(n):
    """Returns the last digit of a whole number."""
    return abs(n) % 10


def divisors(n):
    """Returns a list of the divisors of a number."""
    return [number for number in range(1, n + 1) if n % number == 0]


def is_perfect(n):
    """Tells whether a number is the sum of its proper divisors."""
    return n == sum(number for number in range(1, n) if n % number == 0)


def lcm(a, b):
    """Returns the least common multiple of two numbers."""
    larger = max(a, b)
    number = larger
    while number % a or number % b:
        number += larger
    return number


def collatz_steps(n):
    """Returns how many Collatz steps a number takes to reach 1."""
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


def to_binary(n):
    """Returns a number in binary as a text."""
    return bin(n)[2:]


def from_binary(text):
    """Returns the number that a binary text stands for."""
    return int(text, 2)


def to_fahrenheit(celsius):
    """Converts a temperature from Celsius to Fahrenheit."""
    return celsius * 9 / 5 + 32


def to_miles(kilometres):
    """Converts kilometres to miles."""
    return kilometres / 1.609344


def to_minutes(hours):
    """Converts hours to minutes."""
    return hours * 60


def to_seconds(minutes):
    """Converts minutes to seconds."""
    return minutes * 60


def circle_area(radius):
    """Returns the area of a circle."""
    return 3.141592653589793 * radius**2


def rectangle_area(width, height):
    """Returns the area of a rectangle."""
    return width * height


def perimeter(width, height):
    """Returns the perimeter of a rectangle."""
    return 2 * (width + height)


def triangle_area(base, height):
    """Returns the area of a triangle."""
    return base * height / 2


def is_triangle(a, b, c):
    """Tells whether three lengths can be the sides of a triangle."""
    return a + b > c and a + c > b and b + c > a


def last(items):
    """Returns the last item of a list, or None where it is empty."""
    return items[-1] if items else None


def second(items):
    """Returns the second item of a list."""
    return items[1]


def length(items):
    """Returns how many items a list has."""
    return len(items)


def is_empty(items):
    """Tells whether a list is empty."""
    return len(items) == 0


def backwards(items):
    """Returns a list in reverse order."""
    return items[::-1]


def product(numbers):
    """Returns the product of a list of numbers."""
    result = 1
    for number in numbers:
        result *= number
    return result


def spread(numbers):
    """Returns the difference of the highest and the lowest number of a list."""
    return max(numbers) - min(numbers)


def median(numbers):
    """Returns the median of a list of numbers."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def odds(numbers):
    """Returns the odd numbers of a list."""
    return [number for number in numbers if number % 2 == 1]


def positives(numbers):
    """Returns the positive numbers of a list."""
    return [number for number in numbers if number > 0]


def above(numbers, limit):
    """Returns the numbers of a list that are greater than a limit."""
    return [number for number in numbers if number > limit]


def squares(numbers):
    """Returns a list with every number squared."""
    return [number**2 for number in numbers]


def add_one(numbers):
    """Returns a list with one added to every number."""
    return [number + 1 for number in numbers]


def halve_all(numbers):
    """Returns a list with every number halved."""
    return [number / 2 for number in numbers]


def negatives_to_zero(numbers):
    """Returns a list in which every negative number is zero."""
    return [max(0, number) for number in numbers]


def sort_down(numbers):
    """Returns a list in descending order."""
    return sorted(numbers, reverse=True)


def second_largest(numbers):
    """Returns the second largest number of a list."""
    return sorted(numbers)[-2]


def running_total(numbers):
    """Returns a list of the sums of all numbers so far."""
    totals = []
    total = 0
    for number in numbers:
        total += number
        totals.append(total)
    return totals


def count_evens(numbers):
    """Counts the even numbers of a list."""
    return sum(1 for number in numbers if number % 2 == 0)


def sum_of_evens(numbers):
    """Returns the sum of the even numbers of a list."""
    return sum(number for number in numbers if number % 2 == 0)


def all_positive(numbers):
    """Tells whether all numbers of a list are positive."""
    return all(number > 0 for number in numbers)


def any_negative(numbers):
    """Tells whether any number of a list is negative."""
    return any(number < 0 for number in numbers)


def is_sorted(numbers):
    """Tells whether a list is in ascending order."""
    return numbers == sorted(numbers)


def count_item(items, item):
    """Counts how often an item is in a list."""
    return items.count(item)


def index_of(items, item):
    """Returns the place of an item in a list, or -1 where it is not there."""
    for place, other in enumerate(items):
        if other == item:
            return place
    return -1


def without(items, item):
    """Returns a list without a certain item."""
    return [other for other in items if other != item]


def without_none(items):
    """Returns a list without its None values."""
    return [item for item in items if item is not None]


def first_items(items, count):
    """Returns the first items of a list, as many as count."""
    return items[:count]


def every_second(items):
    """Returns every second item of a list."""
    return items[::2]


def swap_ends(items):
    """Returns a list whose first and last items are exchanged."""
    if len(items) < 2:
        return items
    return [items[-1], *items[1:-1], items[0]]


def rotate(items):
    """Returns a list whose first item is moved to the end."""
    return items[1:] + items[:1]


def repeat(item, count):
    """Returns a list with an item repeated count times."""
    return [item] * count


def has_duplicates(items):
    """Tells whether an item is in a list more than once."""
    return len(set(items)) < len(items)


def common(a, b):
    """Returns the items that two lists have in common."""
    return [item for item in a if item in b]


def difference(a, b):
    """Returns the items of a list that are not in another."""
    return [item for item in a if item not in b]


def pairs(a, b):
    """Returns a list of pairs of the items of two lists."""
    return list(zip(a, b))


def chunks(items, size):
    """Splits a list into lists of a certain size."""
    return [items[place : place + size] for place in range(0, len(items), size)]


def dot(a, b):
    """Returns the dot product of two lists of numbers."""
    return sum(x * y for x, y in zip(a, b))


def count_up(n):
    """Returns a list of the numbers from 1 to n."""
    return list(range(1, n + 1))


def count_down(n):
    """Returns a list of the numbers from n down to 1."""
    return list(range(n, 0, -1))


def fizz(n):
    """Returns 'fizz' for a multiple of 3, 'buzz' for a multiple of 5, else the number."""
    if n % 3 == 0:
        return "fizz"
    if n % 5 == 0:
        return "buzz"
    return n


def text_length(text):
    """Returns how many characters a text has."""
    return len(text)


def shout(text):
    """Returns a text in capital letters, with an exclamation mark."""
    return text.upper() + "!"


def lower(text):
    """Returns a text in small letters."""
    return text.lower()


def starts_with(text, start):
    """Tells whether a text begins with another."""
    return text.startswith(start)


def ends_with(text, end):
    """Tells whether a text ends with another."""
    return text.endswith(end)


def is_digit(text):
    """Tells whether a text has only digits."""
    return text.isdigit()


def is_upper(text):
    """Tells whether a text is in capital letters."""
    return text.isupper()


def first_letter(text):
    """Returns the first letter of a text."""
    return text[0]


def last_letter(text):
    """Returns the last letter of a text."""
    return text[-1]


def words(text):
    """Returns a list of the words of a text."""
    return text.split()


def longest_word(text):
    """Returns the longest word of a text."""
    return max(text.split(), key=len)


def shortest_word(text):
    """Returns the shortest word of a text."""
    return min(text.split(), key=len)


def reverse_words(text):
    """Returns a text with its words in reverse order."""
    return " ".join(reversed(text.split()))


def initials(name):
    """Returns the first letters of the words of a name."""
    return "".join(word[0].upper() for word in name.split())


def count_lines(text):
    """Counts the lines of a text."""
    return len(text.splitlines())


def count_consonants(text):
    """Counts the letters of a text that are not vowels."""
    return sum(1 for letter in text.lower() if letter.isalpha() and letter not in "aeiou")


def count_capitals(text):
    """Counts the capital letters of a text."""
    return sum(1 for letter in text if letter.isupper())


def remove_vowels(text):
    """Returns a text without its vowels."""
    return "".join(letter for letter in text if letter.lower() not in "aeiou")


def remove_digits(text):
    """Returns a text without its digits."""
    return "".join(letter for letter in text if not letter.isdigit())


def only_letters(text):
    """Returns only the letters of a text."""
    return "".join(letter for letter in text if letter.isalpha())


def replace_spaces(text):
    """Returns a text with a hyphen in the place of each space."""
    return text.replace(" ", "-")


def join_words(words):
    """Joins a list of words with spaces."""
    return " ".join(words)


def join_commas(words):
    """Joins a list of words with commas."""
    return ", ".join(words)


def repeat_text(text, times):
    """Returns a text repeated some times."""
    return text * times


def greet(name):
    """Returns a greeting for a name."""
    return f"Hello, {name}!"


def swap_case(text):
    """Returns a text with small and capital letters exchanged."""
    return text.swapcase()


def is_anagram(a, b):
    """Tells whether two texts have the same letters."""
    return sorted(a.lower()) == sorted(b.lower())


def sort_letters(text):
    """Returns the letters of a text in alphabetical order."""
    return "".join(sorted(text))


def letter_counts(text):
    """Returns a dictionary of how often each letter is in a text."""
    counts = {}
    for letter in text:
        counts[letter] = counts.get(letter, 0) + 1
    return counts


def word_lengths(text):
    """Returns a list of the lengths of the words of a text."""
    return [len(word) for word in text.split()]


def caesar(text, shift):
    """Returns a text of small letters with each letter shifted in the alphabet."""
    return "".join(chr((ord(letter) - ord("a") + shift) % 26 + ord("a")) for letter in text)


def keys(dictionary):
    """Returns a list of the keys of a dictionary."""
    return list(dictionary)


def values(dictionary):
    """Returns a list of the values of a dictionary."""
    return list(dictionary.values())


def invert(dictionary):
    """Returns a dictionary with keys and values exchanged."""
    return {value: key for key, value in dictionary.items()}


def has_key(dictionary, key):
    """Tells whether a key is in a dictionary."""
    return key in dictionary


def total_values(dictionary):
    """Returns the sum of the values of a dictionary."""
    return sum(dictionary.values())


def key_of_largest(dictionary):
    """Returns the key of the largest value of a dictionary."""
    return max(dictionary, key=dictionary.get)


def group_by_length(words):
    """Returns a dictionary of lists of words by their length."""
    groups = {}
    for word in words:
        groups.setdefault(len(word), []).append(word)
    return groups


def union(a, b):
    """Returns the union of two sets."""
    return a | b


def read_lines(path):
    """Returns a list of the lines of a file."""
    with open(path) as file:
        return file.read().splitlines()


def write_text(path, text):
    """Writes a text to a file."""
    with open(path, "w") as file:
        file.write(text)


def transpose(rows):
    """Returns the rows of a table as columns."""
    return [list(column) for column in zip(*rows)]


def row_sums(rows):
    """Returns a list of the sums of the rows of a table."""
    return [sum(row) for row in rows]


def identity(n):
    """Returns the identity matrix of size n as a list of lists."""
    return [[1 if row == column else 0 for column in range(n)] for row in range(n)]


def binary_search(numbers, wanted):
    """Returns the place of a number in a sorted list, or -1 where it is not there."""
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2
        if numbers[middle] == wanted:
            return middle
        if numbers[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    return -1


def bubble_sort(numbers):
    """Sorts a list of numbers with bubble sort."""
    numbers = list(numbers)
    for end in range(len(numbers) - 1, 0, -1):
        for place in range(end):
            if numbers[place] > numbers[place + 1]:
                numbers[place], numbers[place + 1] = numbers[place + 1], numbers[place]
    return numbers
