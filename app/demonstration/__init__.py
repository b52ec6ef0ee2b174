"""`varstudio demo`: a whole alignment from nothing, through the same doors that everybody uses.

`making` has the worker make data and models, `flow` takes them through the studio over REST, `result` tells what came of it.
"""
