// Package script runs the scripts in testdata, one for each feature of the Service API. A script is a txtar
// file that reads as documentation of its feature: what happens, step by step, above the manifests that it
// happens to. README.md tells the language. Each script runs a whole Proxier on manifest files in a world of
// its own (package world), for every data plane and, translated, for both families.
//
// Every probe of a script is also a test of the plan: what plan.Trace says of the packet must agree with what
// became of it.
package script
