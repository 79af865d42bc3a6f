-- The products that sold best, by the projection. $1 bigint: how many.
-- Returns product_id, view_count, like_count, sales_count bigint, amount text. Reads only.
select product_id, view_count, like_count, sales_count, total_sales_amount::text as amount
from product_metrics
order by total_sales_amount desc, product_id
limit $1
