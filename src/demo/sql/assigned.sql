-- Whether the consumer has taken partitions. $1 text: consumer group. Returns one boolean. Reads only.
select exists (select from consumer_partitions where consumer_group = $1)
