"""How translations are found and judged: beam search, BLEU and a task's metric; imports nothing else of openwork."""
