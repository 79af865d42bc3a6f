-- How many records the consumer has folded: the offsets it committed together with the folds. $1 text: consumer group.
-- Returns one bigint. Reads only.
select coalesce(sum(next_offset), 0)::bigint
from consumer_partitions
where consumer_group = $1
