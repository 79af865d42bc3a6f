-- Which of these keys are held. $1 smallint: shard. $2 text[]: keys.
-- Returns the place of the key in $2, from 1, and released_to: up to which id its events may go, null for none of them. Changes nothing.
-- The key itself is not returned: where the encoding of the database is not checked it may be unreadable, and one with the same MD5 waits as well.
select u.place, h.released_to
from unnest($2::text[]) with ordinality as u(key, place)
join outbox_held_keys h on h.shard = $1 and h.partition_key is not null and md5(h.partition_key) = md5(u.key)
