-- What became of events that were released. $1 text: group. $2 uuid[]: event ids. Returns those that are still parked:
-- whether they are yet to be folded again, and whether they were given up meanwhile. One that is not returned was
-- folded. Reads only.
select event_id, release_asked_at is not null as releasing, discarded_at is not null as discarded
from consumer_parked
where consumer_group = $1 and event_id = any($2)
