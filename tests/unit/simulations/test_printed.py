"""What a simulation prints after its last round."""

import io

from rich.console import Console

from simulations.printed import result_table

ROW = {"psnr_db": 23.456, "ssim": 0.71234, "mae": 0.0456, "nmse": 0.1, "subjects": 14}


def test_the_final_table_fits_eighty_columns() -> None:
    rows = {"Guys-1 (unseen)": ROW, "all training sites": ROW, "baseline: voxel regression": ROW, "nobody": {}}
    console = Console(file=io.StringIO(), width=80)
    console.print(result_table("t1n,t1c,t2w:t2f, whole volume - SYNTHETIC DATA, 2 anatomies", rows))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    body = [line for line in lines if "23.46" in line]
    assert len(body) == 3
    assert all("0.7123" in line and "14" in line for line in body)
    assert not [line for line in lines if "nobody" in line]
