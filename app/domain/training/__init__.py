"""What a run trains and how: the methods with their settings, and which model it keeps."""
