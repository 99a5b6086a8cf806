#!/usr/bin/env python3
"""Durable transfers a second of the ledger and of Postgres, in turn, on the same disk: bench.py BENCH [ROUNDS] [SECONDS]

BENCH is the built program of actors/reward/benches/ledger.rs. Postgres gets a cluster of its own in a folder beside it, with its
durability as it comes (fsync, synchronous commit, full pages) and more memory and log than it comes with. It is given what makes it fast: a batch is
one statement over a thousand or ten thousand transfers that the server draws itself, so nothing is parsed or sent; a single transfer is one
prepared call of one function. Each checks that the id is new and the payer has enough, and moves both balances, as the ledger does; two-phase
transfers, limits and results that are remembered are the ledger's alone. Of several ways to batch the best counts. The ledger's clients are in its
own process, as the node's are; those of Postgres come over a socket.
"""

import json
import os
import pathlib
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile

ACCOUNTS = 100_000
FUNDS = 1_000_000_000
CLIENTS = 512
SETTINGS = {
    "shared_buffers": "2GB", "max_wal_size": "16GB", "checkpoint_timeout": "30min", "wal_buffers": "64MB",
    "max_connections": CLIENTS + 20, "fsync": "on", "synchronous_commit": "on", "listen_addresses": "''",
}
SCHEMA = f"""
create table accounts(id int primary key, debits bigint not null default 0, credits bigint not null, check (debits <= credits))
  with (fillfactor = 50);
create table transfers(id uuid primary key, debit int not null, credit int not null, amount bigint not null,
  at timestamptz not null default now(), check (debit <> credit), check (amount > 0));
insert into accounts(id, credits) select n, {FUNDS} from generate_series(0, {ACCOUNTS - 1}) n;
create function apply_batch(n int) returns bigint language sql as $$
  with asked as materialized (select gen_random_uuid() id, floor(random() * {ACCOUNTS})::int debit,
                              floor(random() * {ACCOUNTS})::int credit from generate_series(1, n)),
  new as (insert into transfers(id, debit, credit, amount)
          select id, debit, case when credit = debit then (credit + 1) % {ACCOUNTS} else credit end, 1 from asked
          on conflict do nothing returning debit, credit, amount),
  sums as (select account, sum(d)::bigint d, sum(c)::bigint c from
           (select debit account, amount d, 0 c from new union all select credit, 0, amount from new) moved group by account),
  held as materialized (select id from accounts where id in (select account from sums) order by id for update),
  moved as (update accounts a set debits = a.debits + s.d, credits = a.credits + s.c
            from sums s where a.id = s.account and a.id in (select id from held) returning 1)
  select count(*) from moved
$$;
create function apply_one(debit int, credit int) returns void language sql as $$
  insert into transfers(id, debit, credit, amount) values (gen_random_uuid(), debit, credit, 1);
  update accounts set debits = accounts.debits + 1 where id = debit;
  update accounts set credits = accounts.credits + 1 where id = credit;
$$;
"""
ONE = f"""\\set d random(0, {ACCOUNTS - 1})
\\set by random(1, {ACCOUNTS - 1})
\\set c (:d + :by) % {ACCOUNTS}
select apply_one(:d, :c);
"""
BATCHES = [(1000, 1), (1000, 2), (1000, 4), (10000, 1), (10000, 2)]


class Postgres:
    """A cluster in a folder of its own, over a socket there."""

    def __init__(self, folder):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        if not found:
            sys.exit("Postgres is missing; install it: apt-get install postgresql")
        self.bin, self.folder = found[-1], folder
        # It refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        self.version = self.run("postgres", "--version").split()[2]
        self.run("initdb", "-D", folder / "data", "-U", "bench", "-A", "trust", "--no-sync")
        options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        self.run("pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", f"{options} -k {folder}", "start")
        self.sql(SCHEMA)

    def run(self, program, *arguments):
        command = [str(self.bin / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", self.user, "--", *command]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}")
        return done.stdout

    def sql(self, text):
        (self.folder / "sql").write_text(text)
        return self.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-U", "bench", "-d", "postgres", "-f", self.folder / "sql")

    def rate(self, script, clients, seconds):
        """Calls of a script a second; transactions that failed are none."""
        (self.folder / "script").write_text(script)
        text = self.run("pgbench", "-n", "-M", "prepared", "-h", self.folder, "-U", "bench", "-c", clients, "-j", min(clients, 2),
                        "-T", seconds, "-f", self.folder / "script", "postgres")
        rates = [line.split()[2] for line in text.splitlines() if line.startswith("tps = ")]
        if len(rates) != 1 or "aborted" in text:
            raise SystemExit(text[-3000:])
        return float(rates[0])

    def fresh(self):
        self.sql(f"truncate transfers; update accounts set debits = 0, credits = {FUNDS}; vacuum analyze accounts; checkpoint;")

    def check(self):
        """Every transfer left its mark, or the figure means nothing."""
        text = self.sql("\\t on\n\\pset format unaligned\nselect (select sum(amount) from transfers), (select count(*) from transfers), "
                        "sum(debits), sum(credits) from accounts;")
        amount, count, debits, credits = map(int, text.strip().split("|"))
        assert 0 < amount == count == debits == credits - ACCOUNTS * FUNDS, text

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")


def ours(bench, mode, size, seconds):
    done = subprocess.run([bench, mode, str(size), str(seconds), "--bench"], capture_output=True, text=True, check=True)
    transfers, took = done.stdout.split()
    return int(transfers) / float(took)


def reachable(beside):
    """A folder on the disk of `beside` that the user postgres can get at."""
    for folder in (beside, pathlib.Path(tempfile.gettempdir())):
        opened = all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents))
        if (opened or os.geteuid() != 0) and folder.stat().st_dev == beside.stat().st_dev:
            return folder
    return sys.exit(f"the user postgres cannot get at {beside}; set CARGO_TARGET_DIR elsewhere")


def middle(values):
    return f"{statistics.median(values):>12,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    bench = sys.argv[1]
    rounds, seconds = (int(sys.argv[2]) if len(sys.argv) > 2 else 5), (int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="postgres-", dir=reachable(pathlib.Path(bench).resolve().parent)))
    postgres = Postgres(folder)
    print(f"Postgres {postgres.version}, {rounds} rounds of {seconds} s each, in turn", file=sys.stderr)
    found = {name: [] for name in ("batched, Postgres", "batched, ours", "512 clients, Postgres", "512 clients, ours")}
    try:
        for number in range(rounds):
            postgres.fresh()
            best = max((postgres.rate(f"select apply_batch({size});", clients, seconds) * size, size, clients) for size, clients in BATCHES)
            found["batched, Postgres"].append(best[0])
            postgres.check()
            found["batched, ours"].append(max(ours(bench, "batched", size, seconds) for size in (1000, 10000)))
            postgres.fresh()
            found["512 clients, Postgres"].append(postgres.rate(ONE, CLIENTS, seconds))
            found["512 clients, ours"].append(ours(bench, "clients", CLIENTS, seconds))
            postgres.check()
            print(f"round {number + 1} of {rounds}: {[round(values[-1]) for values in found.values()]}, Postgres' best batch {best[1:]}",
                  file=sys.stderr)
    finally:
        postgres.stop()
        shutil.rmtree(folder)
    for load in ("batched", "512 clients"):
        own, other = found[f"{load}, ours"], found[f"{load}, Postgres"]
        found[f"{load}, ours / Postgres"] = [a / b for a, b in zip(own, other)]
    if "--json" in sys.argv:
        print(json.dumps(found))
    for name, values in found.items():
        print(f"{name:<32} {middle(values)}")


main()
