"""Networks of other projects: written anew from their papers, or made by the packages they come from."""
