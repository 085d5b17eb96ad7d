"""The science: data, model, training, metrics, report. Knows nothing of Flower, servers or networks."""
