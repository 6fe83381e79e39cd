// Package inspect writes what a data plane holds, a model.View, in the forms that people and programs
// read. The same View gives the same bytes. Names in a View come from the kernel, where anybody may have
// written them: no form passes control characters on to the terminal, or lets a name break its syntax.
package inspect
