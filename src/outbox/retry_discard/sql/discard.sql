-- Gives events up for good. $1 bigint[]: ids. Running it twice changes nothing more.
update outbox_events set status = 'DISCARDED', dead_letter_to = null where id = any($1) and status in ('FAILED', 'HELD')
