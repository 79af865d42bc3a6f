-- A parked event was tried again and does not fit. $1 text: group. $2 uuid: event id. $3 text: the reason. $4 text:
-- projection; null: all. One that was given up meanwhile stays so.
update consumer_parked set release_asked_at = null, attempts = attempts + 1, error = $3
where consumer_group = $1 and event_id = $2 and projection is not distinct from $4 and release_asked_at is not null
