-- Which of these keys are held. $1 smallint: shard. $2 text[]: keys. Returns the place of the key in $2, from 1, and up
-- to which id its events may go: those before the event that holds it, and what is being released. Changes nothing. The
-- key itself is not returned: where the encoding of the database is not checked it may be unreadable, and one with the
-- same MD5 waits as well.
select u.place, greatest(h.first_id - 1, h.released_to) as released_to
from unnest($2::text[]) with ordinality as u(key, place)
join outbox_held_keys h on h.shard = $1 and h.partition_key is not null and md5(h.partition_key) = md5(u.key)
