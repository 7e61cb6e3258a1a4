"""Past one machine: adapters and answers are made as tasks of a Ray cluster, and found in the store afterwards.

The cluster fills the store ahead of the tests, which then run as ever and find what they ask for. Ray is imported only
where something is missing. `plan` finds what is missing, `joining` looks at the nodes, `running` hands out the tasks,
`judging` those of a judge, `node` is what runs there, `carrying` moves artifacts where nodes do not see the store.
"""
