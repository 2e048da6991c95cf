"""`python -m ncdeploy` is the command `ncdeploy`: the one place of the library that knows the command line."""

from ncdeploy_cli.main import main

if __name__ == "__main__":
    main()
