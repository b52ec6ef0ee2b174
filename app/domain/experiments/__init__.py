"""Experiments: sweeps that ask one question of the method, say beforehand what is expected, and afterwards what came out.

`catalogue` lists them, `plans` says which runs each one asks for, `outcomes` judges what they came to.
"""
