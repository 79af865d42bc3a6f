-- Gives events all their attempts again. They are HELD until their shard's owner releases them. $1 bigint[]: ids.
-- Running it twice changes nothing more.
update outbox_events
set status = 'HELD', retry_count = 0, failed_at = null, dead_letter_to = null
where id = any($1) and status in ('FAILED', 'HELD')
