"""What can be done with prompt sets and answers: made, asked for, judged, uploaded, turned into data, deleted; and chats."""
