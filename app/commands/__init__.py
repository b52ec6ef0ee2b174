"""The commands of `varstudio`, one module per noun."""
