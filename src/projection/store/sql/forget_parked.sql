-- A parked event was folded. $1 text: group. $2 uuid: event id. $3 text: projection; null: all.
delete from consumer_parked where consumer_group = $1 and event_id = $2 and projection is not distinct from $3
