from lpo.configs import FOLDER, recipe_path, recipes


def test_every_recipe_is_listed_with_what_it_is_for_and_found_by_name() -> None:
    listed = recipes()
    assert set(listed) == {path.stem for path in FOLDER.glob("*.yaml")}
    for name, purpose in listed.items():
        path = recipe_path(name)
        assert path is not None and path.is_file()
        assert recipe_path(f"{name}.yaml") == path
        assert purpose and f"# {purpose}\n" in path.read_text(encoding="utf-8")


def test_unknown_names_and_paths_are_no_recipes() -> None:
    assert recipe_path("no-such-recipe") is None
    assert recipe_path("../configs/data/prompts.jsonl") is None
    assert recipe_path("") is None
