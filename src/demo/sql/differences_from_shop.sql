-- Products whose likes or sales in product_metrics are not those of the shop's own tables: the business data never went
-- through Kafka, so the two agree only if every event was folded exactly once.
-- Returns one bigint: how many, 0 when all agree. Reads only.
with likes as (
  select product_id, count(*) as like_count
  from demo_likes
  group by product_id
), sales as (
  select
    (line ->> 'productId')::bigint as product_id,
    sum((line ->> 'quantity')::bigint)::bigint as sales_count,
    sum((line ->> 'amount')::numeric) as total_sales_amount
  from demo_orders
  cross join lateral jsonb_array_elements(lines) as line
  where state <> 'cancelled'
  group by (line ->> 'productId')::bigint
)
select count(*)
from product_metrics as found
full join likes using (product_id)
full join sales using (product_id)
where coalesce(found.like_count, 0) <> coalesce(likes.like_count, 0)
  or coalesce(found.sales_count, 0) <> coalesce(sales.sales_count, 0)
  or coalesce(found.total_sales_amount, 0) <> coalesce(sales.total_sales_amount, 0)
