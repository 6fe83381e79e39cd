// Package sandboxcmd tests 'svcproxy sandbox' as a program: what is left when it is killed, and what clients notice of a
// rollout. test/lab runs its commands one by one.
package sandboxcmd
