"""What a person starts: the `bottega` command and the demo."""
