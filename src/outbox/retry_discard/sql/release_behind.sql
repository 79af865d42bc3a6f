-- Makes the keys due that some events held, now that these are given up. $1 bigint[]: ids.
-- Runs with the rows of their shards locked. Running it twice changes nothing more.
update outbox_held_keys set reason = 'retry', release_at = now(), released_to = null, topic = null, detail = null where first_id = any($1)
