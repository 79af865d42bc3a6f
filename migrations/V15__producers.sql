-- Which transactional.id a shard uses: a transaction with a partition that has no leader cannot be ended until it has one again, and its
-- transactional.id cannot be used until then. The shard goes on under another one, and whoever owns it next has to fence that one.
-- 0 is the number of the shard alone. Grows with every change, and is kept like the number of the last batch.
alter table outbox_shards add column producer_generation int not null default 0;
alter table outbox_retired_shards add column producer_generation int not null default 0;
