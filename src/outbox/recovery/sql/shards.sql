-- Every shard with its last batch, and whether an instance owns it now. Changes nothing.
select shard, batch_seq, batch_ids, marked, batch_tag, owner is not null and lease_until > clock_timestamp() as owned
from outbox_shards order by shard
