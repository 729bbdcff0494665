"""Why an item is there: evidence, words in English and Chinese, and what checks them."""
