"""What a shop embeds: the event producer, the recommendation reader, feeds of catalogue and control."""
