-- Notes the rows that are published in the stead of dead letters. $1 text[]: topics. $2 int[]: partitions. $3 bigint[]:
-- offsets. $4 bigint[]: the rows. Running it twice changes nothing.
update outbox_redriven r set row_id = u.row_id
from unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) as u(topic, partition, "offset", row_id)
where r.topic = u.topic and r.partition = u.partition and r."offset" = u."offset"
