from configbus.cli import main

main()
