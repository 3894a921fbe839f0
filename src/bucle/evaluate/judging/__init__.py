"""What `evaluate.judge` is made of: what is asked, how replies are read, what agreement with people is."""
