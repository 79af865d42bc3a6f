-- Lets instances take the shards again. $1 uuid: the nil uuid.
update outbox_shards set owner = null, lease_until = null where owner = $1
