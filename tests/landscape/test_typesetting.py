"""Tables as text: aligned, within their width, nothing twice."""

from landscape.typesetting import Table, joined

SUBJECT = "Hessian of the mean cross-entropy, 1,078 train examples, eval mode, all 77,754 parameters, float32"


def table(title, *notes, subject=SUBJECT):
    return Table(title + subject, ["", "x"], [["a", "1.5"]], list(notes), [{}], subject)


def test_a_subject_is_told_once():
    text = joined(
        [
            table(""),
            table("The whole spectrum, "),
            table("Blocks: ", subject=SUBJECT[:70]),
            table("Of ", subject="another"),
        ]
    )
    assert " ".join(text.split()).count("1,078 train examples") == 1
    assert "The whole spectrum, same operator and data\n" in text
    assert "Blocks: same operator and data\n" in text
    assert "Of another\n" in text


def test_tables_of_other_data_with_equal_words_say_so():
    text = joined([table(""), table(""), table("The whole spectrum, "), table("The whole spectrum, ")])
    assert "same operator and data" not in text
    assert text.replace("\n", " ").count("float32, other data") == 2


def test_a_note_of_several_tables_stands_below_the_last_of_them():
    text = joined([table("A ", "± is one", "own"), table("B ", "± is one")])
    assert text.count("± is one") == 1
    assert text.endswith("± is one")
    assert text.count("own") == 1


def test_no_word_is_cut():
    words = ["half-hearted", "runs/a-long-name-of-a-folder/epoch-0010.pt", "re-run"]
    assert " ".join(table(" ".join(words), " ".join(words * 3), subject="").text(20).split()).count(words[1]) == 4
    assert not [line for line in table("", " ".join(words * 9)).text(20).splitlines() if line.endswith("-")]


def test_titles_and_notes_keep_to_the_width():
    text = joined([table("The largest ones: ", "a note " * 30)], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert max(map(len, joined([table("The largest ones: ", "a note " * 30)]).splitlines())) <= 100
