-- Takes an instance off the list, so that the others share its shards at once. $1 uuid: instance.
delete from outbox_instances where instance = $1
