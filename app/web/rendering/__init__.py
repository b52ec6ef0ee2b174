"""From values to HTML: the Jinja environment, numbers and words, forms and small pictures."""
