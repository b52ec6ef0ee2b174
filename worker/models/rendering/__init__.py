"""Chat templates at work: programs of strangers, run on the rows' own texts within limits, in a process of their own."""
