"""The worker beside it: eight at a time, each takes one order and commits each status singly. A notification wakes it."""
import asyncio
import os

import asyncpg

TAKE = """
UPDATE orders SET status = 'PROCESSING' WHERE id = (
    SELECT id FROM orders WHERE status = 'RECEIVED' ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING id
"""


async def work(pool: asyncpg.Pool) -> None:
    while True:
        async with pool.acquire() as connection:
            async with connection.transaction():
                order = await connection.fetchval(TAKE)
                if order is not None:
                    await connection.execute("INSERT INTO events (order_id, status) VALUES ($1, 'PROCESSING')", order)
            if order is not None:
                async with connection.transaction():
                    await connection.execute("UPDATE orders SET status = 'COMPLETED' WHERE id = $1", order)
                    await connection.execute("INSERT INTO events (order_id, status) VALUES ($1, 'COMPLETED')", order)
        if order is None:
            await asyncio.sleep(0.05)


async def main() -> None:
    pool = await asyncpg.create_pool(os.environ["PEER_DSN"], min_size=8, max_size=8)
    # What a killed worker left is taken up again.
    await pool.execute("UPDATE orders SET status = 'RECEIVED' WHERE status = 'PROCESSING'")
    await asyncio.gather(*(work(pool) for _ in range(8)))


asyncio.run(main())
