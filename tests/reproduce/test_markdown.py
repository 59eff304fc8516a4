from suffice.reproduce import markdown

PAGE = """before
<!-- table towers r2 -->
old
<!-- end -->
between
<!-- table letters auc -->
<!-- end -->
after
"""


def test_a_table_has_a_text_column_and_number_columns():
    assert markdown.table(["row", "a"], [["x", "1"]]) == "| row | a |\n| --- | ---: |\n| x | 1 |\n"


def test_a_spread_is_mean_and_sample_deviation():
    assert markdown.spread([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    assert markdown.spread([0.12345], digits=2) == "0.12"


def test_every_block_is_replaced_and_nothing_else_changes():
    page = markdown.fill_tables(PAGE, lambda experiment, table: f"{experiment}/{table}\n")
    assert page.split("<!-- table")[0] == "before\n"
    assert all(part in page for part in ("towers/r2", "letters/auc", "between"))
    assert "old" not in page
    assert page.endswith("after\n")
    assert markdown.fill_tables(page, lambda experiment, table: f"{experiment}/{table}\n") == page


def test_blocks_are_named():
    assert markdown.table_names(PAGE) == [("towers", "r2"), ("letters", "auc")]
