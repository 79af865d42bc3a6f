-- Forgets the positions of a group that has another name now. $1 text: the group.
delete from consumer_partitions where consumer_group = $1
