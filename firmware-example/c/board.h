// What the programs of this folder need of a board.

#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

// Logs a string through semihosting.
void board_write(const char *text);

// Ends the emulator with this status.
_Noreturn void board_exit(int code);

#endif
