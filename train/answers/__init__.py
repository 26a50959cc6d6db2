"""The answer forms: how a model is asked, trained and read; one file each, behind `form.AnswerForm`."""
