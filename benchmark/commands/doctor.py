"""`loobench doctor`: this machine."""

from benchmark.commands import options as o
from benchmark.commands import terminal


@o.command(examples=("loobench doctor",))
def command(options: o.Options) -> int:  # noqa: ARG001
    """What this machine is, and whether it reproduces stored truths bit for bit."""
    from benchmark.studies import doctor

    for name, value in doctor.described().items():
        print(f"{name}: {value}")
    found, other = list(doctor.examine()), doctor.differing()
    cells = [(f.setting, "same bits" if f.same else f"within {f.difference:.0e}") for f in found]
    rows = [[setting.name, *(told for name, told in cells if name == setting.name)] for setting in doctor.SETTINGS]
    print("\nExact effects beside the stored ones; differences in standard deviations of the effects\n")
    terminal.table(["setting", *doctor.CASES], rows)
    print(f"\nPublished truths of the suite quick, seed 0, with other bits here: {', '.join(other) or 'none'}")
    print(f"Stored bits are of: {doctor.of_machine(doctor.stored()['made'])}")
    print(f"This machine is: {doctor.of_machine(doctor.here())}")
    print(f"\n{doctor.verdict(found, other)}")
    return 0 if doctor.worst(found) < doctor.TOLERANCE else o.FAILED
