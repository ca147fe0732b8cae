"""What translations are judged by: beam search and BLEU; imports none of ours."""
