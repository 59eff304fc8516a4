from suffice.report.tables import all_tables
from tests.report.results import RESULTS


def test_every_table_is_rectangular_and_fits_a_terminal_of_80_columns():
    for table in all_tables(RESULTS):
        assert {len(row) for row in table.rows} == {len(table.header)}
        cells = [table.header, *table.rows]
        widths = [max(len(row[i]) for row in cells) + 3 for i in range(len(table.header))]
        assert sum(widths) - 1 <= 80, (table.title, sum(widths))
