"""TPC-H on sealed tables, in one Spark session: a sealed table for each answer, the times, and a page with a chart.

The outputs are the same whatever was chosen: the answer of a query that was not chosen has no rows. The queries lie in
files beside this one.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from report import page

from ppml_airflow.workloads.spark.api import params, save_file, session, write

INPUTS = {
    "customer": {
        "c_custkey": "bigint",
        "c_name": "string",
        "c_address": "string",
        "c_nationkey": "bigint",
        "c_phone": "string",
        "c_acctbal": "decimal(15,2)",
        "c_mktsegment": "string",
        "c_comment": "string",
    },
    "lineitem": {
        "l_orderkey": "bigint",
        "l_partkey": "bigint",
        "l_suppkey": "bigint",
        "l_quantity": "decimal(15,2)",
        "l_extendedprice": "decimal(15,2)",
        "l_discount": "decimal(15,2)",
        "l_tax": "decimal(15,2)",
        "l_returnflag": "string",
        "l_linestatus": "string",
        "l_shipdate": "date",
        "l_commitdate": "date",
        "l_receiptdate": "date",
        "l_shipinstruct": "string",
        "l_shipmode": "string",
    },
    "nation": {"n_nationkey": "bigint", "n_name": "string", "n_regionkey": "bigint"},
    "orders": {
        "o_orderkey": "bigint",
        "o_custkey": "bigint",
        "o_orderstatus": "string",
        "o_totalprice": "decimal(15,2)",
        "o_orderdate": "date",
        "o_orderpriority": "string",
        "o_shippriority": "int",
        "o_comment": "string",
    },
    "part": {
        "p_partkey": "bigint",
        "p_name": "string",
        "p_mfgr": "string",
        "p_brand": "string",
        "p_type": "string",
        "p_size": "int",
        "p_container": "string",
    },
    "partsupp": {
        "ps_partkey": "bigint",
        "ps_suppkey": "bigint",
        "ps_availqty": "int",
        "ps_supplycost": "decimal(15,2)",
    },
    "region": {"r_regionkey": "bigint", "r_name": "string"},
    "supplier": {
        "s_suppkey": "bigint",
        "s_name": "string",
        "s_address": "string",
        "s_nationkey": "bigint",
        "s_phone": "string",
        "s_acctbal": "decimal(15,2)",
        "s_comment": "string",
    },
}
OUTPUTS = {
    "tpch_q01": {
        "l_returnflag": "string",
        "l_linestatus": "string",
        "sum_qty": "decimal(25,2)",
        "sum_base_price": "decimal(25,2)",
        "sum_disc_price": "decimal(38,4)",
        "sum_charge": "decimal(38,6)",
        "avg_qty": "decimal(19,6)",
        "avg_price": "decimal(19,6)",
        "avg_disc": "decimal(19,6)",
        "count_order": "bigint",
    },
    "tpch_q02": {
        "s_acctbal": "decimal(15,2)",
        "s_name": "string",
        "n_name": "string",
        "p_partkey": "bigint",
        "p_mfgr": "string",
        "s_address": "string",
        "s_phone": "string",
        "s_comment": "string",
    },
    "tpch_q03": {
        "l_orderkey": "bigint",
        "revenue": "decimal(38,4)",
        "o_orderdate": "date",
        "o_shippriority": "int",
    },
    "tpch_q04": {"o_orderpriority": "string", "order_count": "bigint"},
    "tpch_q05": {"n_name": "string", "revenue": "decimal(38,4)"},
    "tpch_q06": {"revenue": "decimal(38,4)"},
    "tpch_q07": {"supp_nation": "string", "cust_nation": "string", "l_year": "int", "revenue": "decimal(38,4)"},
    "tpch_q08": {"o_year": "int", "mkt_share": "decimal(38,6)"},
    "tpch_q09": {"nation": "string", "o_year": "int", "sum_profit": "decimal(38,4)"},
    "tpch_q10": {
        "c_custkey": "bigint",
        "c_name": "string",
        "revenue": "decimal(38,4)",
        "c_acctbal": "decimal(15,2)",
        "n_name": "string",
        "c_address": "string",
        "c_phone": "string",
        "c_comment": "string",
    },
    "tpch_q11": {"ps_partkey": "bigint", "value": "decimal(36,2)"},
    "tpch_q12": {"l_shipmode": "string", "high_line_count": "bigint", "low_line_count": "bigint"},
    "tpch_q13": {"c_count": "bigint", "custdist": "bigint"},
    "tpch_q14": {"promo_revenue": "decimal(38,6)"},
    "tpch_q15": {
        "s_suppkey": "bigint",
        "s_name": "string",
        "s_address": "string",
        "s_phone": "string",
        "total_revenue": "decimal(38,4)",
    },
    "tpch_q16": {"p_brand": "string", "p_type": "string", "p_size": "int", "supplier_cnt": "bigint"},
    "tpch_q17": {"avg_yearly": "decimal(30,6)"},
    "tpch_q18": {
        "c_name": "string",
        "c_custkey": "bigint",
        "o_orderkey": "bigint",
        "o_orderdate": "date",
        "o_totalprice": "decimal(15,2)",
        "sum_qty": "decimal(25,2)",
    },
    "tpch_q19": {"revenue": "decimal(38,4)"},
    "tpch_q20": {"s_name": "string", "s_address": "string"},
    "tpch_q21": {"s_name": "string", "numwait": "bigint"},
    "tpch_q22": {"cntrycode": "string", "numcust": "bigint", "totacctbal": "decimal(25,2)"},
    "tpch_timings": {"query": "string", "pass_number": "bigint", "seconds": "double"},
    "tpch_report": "files",
}
QUERIES = [f"q{number:02}" for number in range(1, 23)]


def run(query: str, *, is_kept: bool) -> float:
    """Run one query to its last row, keep its answer if that is wanted, and return the seconds it took."""
    started = perf_counter()
    answer = session().sql(Path(__file__).with_name(f"{query}.sql").read_text())
    if is_kept:
        write(f"tpch_{query}", answer)
    else:
        answer.write.format("noop").mode("overwrite").save()
    return perf_counter() - started


def leave_empty(query: str) -> None:
    """Write the answer of a query that was not asked."""
    columns = ", ".join(f"{name} {kind}" for name, kind in OUTPUTS[f"tpch_{query}"].items())
    write(f"tpch_{query}", session().createDataFrame([], columns))


def main() -> None:
    """Run what was chosen `passes` times; the last pass writes the answers."""
    chosen = QUERIES if params["query"] == "all" else [params["query"]]
    passes = params["passes"]
    timings = [
        (query, number, run(query, is_kept=number == passes)) for number in range(1, passes + 1) for query in chosen
    ]
    for query in QUERIES:
        if query not in chosen:
            leave_empty(query)
    write("tpch_timings", session().createDataFrame(timings, "query string, pass_number bigint, seconds double"))
    save_file("tpch_report", "report.html", page(timings, suppliers=session().table("supplier").count()).encode())


if __name__ == "__main__":
    main()
