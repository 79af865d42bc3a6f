-- Says that the number of shards is to be changed: instances give their shards up when they see it. $1 int: the number;
-- null takes it back.
update outbox_installation set resharding_to = $1::int
