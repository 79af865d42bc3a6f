-- Forgets dead letters that are deleted. $1 text: topic. $2 int: partition. $3 bigint: the first offset that is still
-- there. Running it twice changes nothing.
delete from outbox_redriven where topic = $1 and partition = $2 and "offset" < $3
