-- Held keys by reason and, where they wait for one, by topic, with the age of the oldest hold. Reads every held key.
-- Changes nothing. Times are clamped first, as in list_shards.sql.
select reason, topic, count(*) as keys, extract(epoch from clock_timestamp() - min(least(greatest(held_at, 'epoch'), clock_timestamp())))::float8 as oldest
from outbox_held_keys
group by reason, topic
order by keys desc, reason, topic nulls first
