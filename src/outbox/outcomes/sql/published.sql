-- Published events whose rows do not say so. $1 bigint: begin after this id. $2 bigint: most of them. Changes nothing.
select id from outbox_outcomes where status = 'PUBLISHED' and id > $1 order by id limit $2
